"""Train one small network on MNIST, and see what its components and their back-propagation do."""
