"""The greeting contract, by version."""
