"""What people look at after training: tables, pictures, one HTML file."""
