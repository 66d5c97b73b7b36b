#!/usr/bin/env bash
# `steadydancer` in a container: the command line under the settings that the gateway has there.
exec /opt/gateway/bin/start.sh --exec /opt/gateway/venv/bin/steadydancer "$@"
