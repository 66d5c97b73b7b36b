"""The gateway as a worker of RunPod Serverless: a typed request in, the video out."""
