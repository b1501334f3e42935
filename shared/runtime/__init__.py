"""What every service process has: settings, logging, health, HTTP, an owner for its tasks, and the bus."""
