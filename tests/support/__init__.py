"""What the tests share: readers of trees, other tools, images to run on. Nothing here is a test."""
