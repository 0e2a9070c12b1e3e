"""Recording by a person: what is kept, what is said of it, and what they are warned of."""
