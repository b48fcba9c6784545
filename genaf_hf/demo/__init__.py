"""Two models under attack, and the page that shows them."""
