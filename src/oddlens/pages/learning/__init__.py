"""The engineer's work: folders of photographs, projects, and jobs that check images and fit detectors to them."""
