cd /tmp
tar -C /usr -cf - share | xz -0 -T2 > share.tar.xz; echo "${PIPESTATUS[*]}"
xz -t share.tar.xz; echo $?
mkdir x; tar -C x -xJf share.tar.xz; echo $?
list() { (cd "$1" && find . -mindepth 1 -printf '%y %m %U %G %n %TY-%Tm-%Td_%TH:%TM:%TS %p %l\n' | sed 's/^\(d [^ ]* [^ ]* [^ ]*\) [^ ]*/\1/' | sort | sha256sum); }
list /usr/share; list x/share
diff -r --no-dereference /usr/share x/share && echo same
tar -tvJf share.tar.xz | wc -l
gzip -c /usr/bin/perl | gunzip | cmp - /usr/bin/perl && echo gzip
rm -rf x; ls
