"""Decoding of files nobody vouches for, in a process of its own.

`worker` is the process and both ends of its pipe (`pipe`). Inside it `decode` chooses a way, `containers`
names the demuxer, `scan` lists the packets, `promises` says how many there should be, `libav` decodes,
`images` reads animated images, `pixels` makes RGB, `output` chooses frames, and `slots` hands them over.
"""
