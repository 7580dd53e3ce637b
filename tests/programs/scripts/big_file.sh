cd /tmp
yes 'sixteen bytes x' | head -c 500M > big; stat -c %s big
sha256sum big
dd if=big of=/dev/null bs=1M 2>&1 | grep -c copied
dd if=big of=copy bs=64k 2>/dev/null; cmp big copy && echo equal
tail -c 17 big; dd if=big bs=1 skip=262144000 count=16 2>/dev/null
rm copy; truncate -s 100M big; sha256sum big
python3 -c '
import mmap
f = open("/tmp/big", "r+b"); m = mmap.mmap(f.fileno(), 0); m[50_000_000:50_000_004] = b"MMAP"; print(m.find(b"MMAP"), len(m)); m.close()'
dd if=big bs=1 skip=50000000 count=4 2>/dev/null; echo; rm big; df /tmp | wc -l
