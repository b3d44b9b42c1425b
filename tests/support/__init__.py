"""What the tests stand on: a host of their own, a picture of it, the command line, waiting.

Must not: import ``netns_orch``; the tests that use this see the product from outside only.
"""
