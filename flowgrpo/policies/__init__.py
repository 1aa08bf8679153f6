"""Adapters between `flowgrpo.policy.Policy` and the libraries that hold the models."""
