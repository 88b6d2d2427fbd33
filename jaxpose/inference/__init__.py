"""What runs learned, used on images and videos."""
