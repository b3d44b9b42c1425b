"""Mininet or munet, told line by line what to do: ``drivers.py NAME COUNT DIRECTORY``.

It prints a line of JSON when the lab stands; ``exec`` on stdin runs ``true`` in a container and says how long
that took (median of several); ``down`` removes the lab, says so, and ends.  Runs in the library's own Python.
"""

import json
import statistics
import subprocess
import sys
import time

NETWORK, GATEWAY, EXECS = "10.200.0.0/16", "10.200.0.1", 9


def address(number):
    return f"10.200.{(number + 1) >> 8}.{(number + 1) & 255}"


class Mininet:
    def __init__(self, count, _):
        import mininet.net
        from mininet.log import setLogLevel
        from mininet.nodelib import LinuxBridge

        setLogLevel("error")
        mininet.net.fixLimits = lambda: None  # it raises sysctls of the whole machine
        self.net = mininet.net.Mininet(switch=LinuxBridge, controller=None, ipBase=NETWORK)
        switch = self.net.addSwitch("s1")
        for number in range(1, count + 1):
            route = f"via {GATEWAY}"
            self.net.addLink(
                self.net.addHost(f"h{number}", ip=f"{address(number)}/16", defaultRoute=route), switch
            )
        self.net.start()
        subprocess.check_call(["ip", "address", "add", f"{GATEWAY}/16", "dev", "s1"])
        for host in self.net.hosts:
            host.cmd(f"ip route replace default via {GATEWAY}")

    def execute(self):
        self.net.hosts[0].cmd("/bin/true")

    def down(self):
        self.net.stop()


class Munet:
    def __init__(self, count, directory):
        import asyncio
        import logging

        from munet.parser import async_build_topology

        logging.basicConfig(level=logging.ERROR)
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        nodes = [
            {
                "name": f"h{number}",
                "connections": [{"to": "net0", "name": "eth0", "ip": f"{address(number)}/16"}],
            }
            for number in range(1, count + 1)
        ]
        networks = [{"name": "net0", "ip": f"{GATEWAY}/16", "nat": True}]
        topology = {"ipv6-enable": False, "networks": networks, "nodes": nodes}
        config = {"version": 1, "topology": topology, "config_pathname": f"{directory}/munet.json"}
        build = async_build_topology(config, rundir=f"{directory}/munet")
        self.net = self.loop.run_until_complete(build)
        self.loop.run_until_complete(self.net.run())

    def execute(self):
        self.net.hosts["h1"].cmd_status(["/bin/true"])

    def down(self):
        self.loop.run_until_complete(self.net.async_delete())


def main():
    lab = {"mininet": Mininet, "munet": Munet}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
    print(json.dumps({"up": True}), flush=True)
    for line in sys.stdin:
        if line.strip() == "exec":
            taken = []
            for _ in range(EXECS):
                began = time.monotonic()
                lab.execute()
                taken.append(time.monotonic() - began)
            print(json.dumps({"seconds": statistics.median(taken)}), flush=True)
        elif line.strip() == "down":
            lab.down()
            print(json.dumps({"down": True}), flush=True)
            return


main()
