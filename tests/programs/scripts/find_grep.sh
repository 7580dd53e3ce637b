find /usr /etc /var /bin -xdev -printf '%y %m %U %G %p %l\n' | sort | sha256sum
find /usr -type f -size +1M -printf '%s %p\n' | sort -n | tail -5
find /usr/lib -name '*.so*' | wc -l
find /etc -newer /etc/debian_version -type f | wc -l
grep -rc include /usr/include | sort | sha256sum
grep -rl 'struct stat' /usr/include | sort | head -5
grep -r --include='*.py' -E 'def __init__' /usr/lib/python3.11 | wc -l
find /usr/share -type f -print0 | xargs -0 -P 2 -n 200 sha256sum | sort | sha256sum
ls -laR /usr/lib/python3 | grep -v -E '^(total|d)' | sha256sum
du -s --apparent-size /usr/include | cut -f2; find / -maxdepth 1 -printf '%y %f\n' | sort
