"""What people and programs are told of the proxy, and what they may have it do."""
