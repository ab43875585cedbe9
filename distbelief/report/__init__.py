"""What a person looks at afterwards: pages of HTML that need nothing but a browser."""
