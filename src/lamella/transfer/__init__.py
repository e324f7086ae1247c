"""Moving images between endpoints: any to any, several blobs at once, with progress and cancellation."""
