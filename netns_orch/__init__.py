"""netorch: one YAML file, one command, and a network lab stands.

This page is the map of the house.  Data has one way through it::

    lab.yaml --labfile--> Topology --graph--> Wiring --resolve--> desired State
                                                                       |
                           kernel --observe--> observed State ---------+--plan.diff--> Plan --engine--> kernel

=============  ==============================================================================================
room           what it owns
=============  ==============================================================================================
``records``    data classes that cost next to nothing to declare; every room may use them
``errors``     every error raised on purpose: what, where (file:line:column), hint; exit codes
``resources``  the vocabulary: one type for each thing made in the kernel; desired, observed, plan and journal
               all speak it
``capabilities``  their names, Docker's set plus NET_ADMIN, what cap_add and cap_drop make of it
``labfile/``   the file format: YAML with marks and limits, validation, JSON Schema -> ``Topology``
``convert/``   other tools' files -> the text of a lab file (``netorch import``)
``graph``      names, MACs and addresses for what the file leaves out; the networkx graph; the checks that
               need no kernel
``resolve``    ``Wiring`` -> desired ``State``
``uplink``     the part of a private lab that is on the host: one container more, one cable with NAT
``plan``       ``diff`` of two states -> an ordered ``Plan``; how a plan reads
``journal``    what the kernel cannot tell: intents, previous values, what was applied
``engine``     runs a plan, in batches, through ``kernel``; carries no decisions
``lab``        the one way in, for the command line and for Python: up, down, status, ps ...
``inspection`` what a state has of one node, as ``inspect`` prints it
``rootless``   an ordinary user's way to where a lab is, of commands and of programs
``images``     containers of an ``image``: fetched, and what it says of itself below what the file says
``lease``      how long a lab is wanted: --ttl and --owner-pid
``collect``    what dead runs left: found, judged and removed (``gc``)
``cables``     cables of a running lab: plugged, unplugged, impaired, put back, shown
``operate``    what is done to a lab that runs, its definition left alone: pause, kill, cp, top, stats ...
``draw``       the wiring as text, mermaid, dot, svg or html
``trace``      the way of a packet through a state, hop by hop, and where it is lost
``script``     the plan as a shell script that builds the lab by hand
``views``      what explains a lab: its graph, the path of a packet, the script that builds it by hand
``doctor``     what a host can do for labs, what each lack means, how to mend it
``capture/``   packets of many interfaces in one pcapng file, or in a ring
``checks/``    what a lab file says must hold, proven with real packets; scenarios; the test of lab files
``api/``       netorch for Python (``import netorch``): labs built in code, and handles of running ones
``pytest_plugin``  labs as fixtures, lab files as tests
``kernel/``    the only room that speaks to the kernel: namespaces, cgroups, netlink, mounts, nft, processes
``cli/``       the command line; ``exec`` has a short way of its own that imports next to nothing
=============  ==============================================================================================

Imports run one way: cli -> operate -> lab -> engine -> plan, journal -> resources -> errors, and
lab -> resolve -> graph -> labfile; ``kernel`` knows ``resources`` and ``errors`` only.  A test holds it.
"""

__version__ = "0.1.0"
