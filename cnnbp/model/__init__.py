"""The network, its layers and fused kernel, its back-propagation by hand, and its table."""
