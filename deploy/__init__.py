"""What puts Stentor on machines: set-up, manifests, the CNI plugin, the command line and the lab."""
