# The newest committed checkpoint of the run. The name of the folder may begin with "-".
newest() { ls -- "$run_dir/checkpoints" 2>/dev/null | grep -xE '[0-9]+' | sort -n | tail -n 1; }
