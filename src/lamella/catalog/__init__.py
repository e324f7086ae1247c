"""What the store knows: documents, images, names, snapshots and leases, in one transactional database."""
