"""The lab: a whole Stentor cluster on one machine, with real services, real eBPF and a small Kubernetes."""
