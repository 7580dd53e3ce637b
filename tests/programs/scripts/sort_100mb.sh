cd /tmp
awk 'BEGIN { x = 12345; for (i = 0; i < 2600000; i++) { x = (x * 1103515245 + 12345) % 2147483648; printf "%d some words of text %010d\n", x % 1000, x } }' > in
stat -c %s in
sort -S 40M -T /tmp in > out; echo $?
sha256sum < out; sort -c out && echo sorted
sort -n -k1,1 -s -u in | wc -l
sort -S 40M --parallel=2 -r in | head -2
uniq -c -w 3 out | wc -l; wc in; cut -d' ' -f1 in | sort -n | uniq -c | sort -rn | head -3; split -n l/4 in part; ls part* | wc -l; cat parta? | cmp - in && echo whole
