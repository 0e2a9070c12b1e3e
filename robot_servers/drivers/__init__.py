"""One file per robot. Drivers satisfy `interface.Driver` and never import each other."""
