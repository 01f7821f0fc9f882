"""What answers: the catalog, the common message type, and everything behind one interface."""
