# Sourced by demo.sh and test.sh in the root of the project: makes .venv once, and again when what it is made from changed.
# Afterwards $python is the interpreter in it.

python=.venv/bin/python
made_from=$({ pwd && cat pyproject.toml constraints.txt; } | cksum) # pwd: the editable install knows its folder
fits='import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'

if [ "$(cat .venv/made-from 2>/dev/null)" != "$made_from" ]; then
    if ! "$python" -c "$fits" 2>/dev/null; then
        found=
        for candidate in python3.11 python3.12 python3 python; do
            if "$candidate" -c "$fits" 2>/dev/null; then
                found=$candidate
                break
            fi
        done
        if [ -z "$found" ]; then
            echo "error: no Python 3.11 or 3.12 with venv on this machine; install one (python3.11 and python3.11-venv) and run this again" >&2
            exit 1
        fi
        echo "making .venv with $("$found" --version)"
        "$found" -m venv --clear .venv
    fi
    echo "installing into .venv: some minutes, 3 GB on the disk"
    # torch alone and first: pinned to the build that is tested here, whatever the other packages would take
    "$python" -m pip install -qq --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
    "$python" -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[test]"
    echo "$made_from" >.venv/made-from
fi
