"""The network, its equations by hand, and the table of its layers; usable by themselves."""
