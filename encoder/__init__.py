"""The networks, how they embed, and how they are saved."""
