"""The command line. Modules here import what is heavy inside commands, so that help is quick."""
