"""Draw figures with matplotlib and image grids with Pillow, and write them whole."""
