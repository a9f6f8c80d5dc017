"""Methods and measures of the source papers, one file each; a task or a config turns them on."""
