"""eBPF: building the programs, their maps, attaching them, and reading what they tell."""
