"""The heart: bytes from one socket to another, through the kernel where there are many of them.

`pipes` owns the pipes; `means` is what the flows of a worker share; `flow` moves one direction and
decides, `paced` does so slowly; `relay` joins two flows into a session's traffic and obeys. The
rules are numbered I1 to I10 in ARCHITECTURE.md; each stands as a comment where it is kept.
"""
