"""One file per command, one public function each: the function has the name of the command."""
