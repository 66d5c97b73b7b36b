"""What runs in the child processes: the only code that opens a client's file.

Nothing outside this package imports it, so that the gateway itself never loads a codec.
"""
