"""Train one small convolutional network on MNIST, and see what its components and their back-propagation do."""
