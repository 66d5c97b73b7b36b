"""A ComfyUI for machines without a GPU: the recorded protocol, no models.

It imports nothing of the gateway's rooms, so that it can be trusted to test them. Start it with
`python -m app.standin`; `--help` lists what it can be told.
"""
