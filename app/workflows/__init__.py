"""Workflows: what can be asked for, and the ComfyUI graph that answers it."""
