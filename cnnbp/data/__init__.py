"""What a data set is, where its images come from, and the batches that training sees of them."""
