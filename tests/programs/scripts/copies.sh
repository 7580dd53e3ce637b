mkdir -p /tmp/a/dir/deep && cd /tmp/a
echo one > f; ln f hard; ln -s f soft; ln -s /nowhere dangling; ln -s dir dirlink; mkfifo pipe; echo x > dir/deep/x; chmod 4751 f; chmod 2770 dir; chown 1000:1001 dir/deep/x; touch -d '2001-02-03 04:05:06.789' f dir/deep/x; truncate -s 10M sparse; touch -h -d '2002-02-02' soft dangling dirlink pipe sparse; touch -d 2003-03-03 dir/deep; touch -d 2004-04-04 dir
show() { (cd "$1" && find . -mindepth 1 -printf '%p %y %m %U:%G %n %T+ %l\n' | sort; stat -c %i f hard | uniq | wc -l); }
show /tmp/a
cp -a /tmp/a /tmp/b; show /tmp/b; diff -r --no-dereference -x pipe /tmp/a /tmp/b && echo same
rsync -aH /tmp/a/ /tmp/c/; show /tmp/c
rsync -aHi --delete /tmp/a/ /tmp/c/; echo "rsync again $?"
echo more >> dir/deep/x; touch -d '2005-05-05' dir/deep/x; rm dangling; rsync -aH --delete /tmp/a/ /tmp/c/; show /tmp/c | grep -c .; cat /tmp/c/dir/deep/x
mkdir /tmp/d; tar --sort=name -cf - . | tar -C /tmp/d -xf -; show /tmp/d
cp -r --no-preserve=mode /tmp/a/dir /tmp/e; mv /tmp/e /tmp/f; ls /tmp/f; cp --sparse=always sparse s2; cmp sparse s2 && stat -c '%s' s2; install -m 640 -D f /tmp/i/j/k; stat -c %a /tmp/i/j/k; ls -la /tmp/a | awk 'NR > 1 {print $1, $2, $3, $4, $NF}' | grep -v '\.\.\?$'
mv /tmp/a/f /dev/shm/moved; stat -c '%a %Y' /dev/shm/moved; rm -rf /tmp/a /tmp/b; ls /tmp
