"""Options and arguments that several commands share, as typer reads them.

Owns: their names, placeholders and help.  Must not: know a command.
"""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

BUILD, USE, LOOK, MORE = "Build", "Use", "Look", "More"
Text = str | None
Texts = list[str] | None
FileWord = Annotated[Text, Argument(metavar="FILE", help="Lab file, or a lab that is up.")]
LabWord = Annotated[Text, Argument(metavar="LAB", help="Lab that is up, or its file.")]
LabOption = Annotated[Text, Option("--lab", metavar="LAB", help="Lab that is up, or its file.")]
Node = Annotated[str, Argument(metavar="NODE", help="The container.")]
Nodes = Annotated[Texts, Argument(metavar="NODE...", help="Containers, or names of scaled ones.")]
Label = Annotated[
    Texts, Option("--label", "-l", metavar="K=V", help="Those with that label; all of several must fit.")
]
Every = Annotated[bool, Option("--all", help="All containers of the lab.")]
JsonOnly = Annotated[bool, Option("--json", help="JSON is all it prints, asked for or not.")]
Json = Annotated[bool, Option("--json", help="JSON on stdout.")]
Name = Annotated[Text, Option("--name", metavar="LAB", help="Name of the lab, instead of the file's.")]
Var = Annotated[Texts, Option("--var", metavar="K=V", help="Value for ${K} in the file; may be repeated.")]
Private = Annotated[
    bool,
    Option("--private", help="Bridges in a network namespace of the lab's own, as netns: private."),
]
Untrusted = Annotated[
    bool,
    Option(
        "--untrusted",
        help="The file is a stranger's: refuse all in it that reaches the host.\n"
        "NETORCH_UNTRUSTED=1 in the environment does the same.",
    ),
]
Wait = Annotated[Text, Option("--wait", metavar="TIME", help="Wait so long for another netorch on this lab.")]
