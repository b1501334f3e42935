"""Benchmarks: measured figures of Stentor on this machine, for people who want to judge it.

They assert nothing and are no tests. Each figure has its spread and names the command that measures it again.
"""
