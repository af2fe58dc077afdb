"""A chat: everybody hears what anybody says."""
