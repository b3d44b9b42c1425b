"""The kernel's room: the only one that makes system calls, opens sockets and runs programs.

``driver`` is the way in: one lab, one phase of its plan at a time.  Under it, by subject:

- containers: ``runtime`` (their life, from outside), ``zygote`` and ``clone`` (who forks them), ``rootfs``,
  ``layers`` and ``imagestore`` (their roots), ``init`` (their PID 1), ``confine`` and ``seccomp`` (what they
  may do), ``enter`` and ``session`` (``exec``), ``interpreter`` (all they see of ours), ``cgroups`` (what
  they may use).
- network: ``netlink`` and ``messages`` (bytes), ``network`` (changes), ``netobserve`` (what is there).
- checks: ``prober`` (the way in), ``probes`` and ``stream`` (packets that ask), and what they are made of.
- rootless: ``realm`` (a lab's own namespaces, and the way in) and ``founding`` (how they come to be), by
  ``holder`` and ``idmap``; ``workers`` (who goes there for programs), ``outside`` (the way out), ``hostroot``
  (the host's root in parts), ``ids``, ``userdir``.
- the host: ``hosttable``, ``publish`` and ``forwarding`` (nft), ``portholders`` (who has which port),
  ``hostsysctl``, ``facts``, ``rundir`` (files and locks), ``leftovers`` (what bears our marks, and whose
  it is).

It knows ``resources`` and ``errors``, and nothing of lab files or plans.
"""
