"""What clients say first: bytes in, values out. No socket, no clock, nothing consumed.

A parser is given all bytes seen so far, from the first one on, and answers with a value, with
`Need`, or with an error of its own. How the bytes came in pieces makes no difference: an answer
other than `Need` stays the same whatever follows.
"""
