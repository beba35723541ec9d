"""What tests are made of: real servers, real clients, and a deadline on every wait."""
