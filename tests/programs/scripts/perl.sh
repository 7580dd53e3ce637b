cd /tmp
perl -e '
use strict; use warnings; use POSIX qw(:sys_wait_h); use Socket; use IO::Handle; use Fcntl ":flock"; use File::Find; use Time::HiRes qw(sleep time);
my %h; $h{$_ % 97} += $_ for 1..200000; print join(",", map { "$_=$h{$_}" } (sort { $a <=> $b } keys %h)[0..4]), "\n";
open(my $p, "-|", "seq 1 5") or die; print "got $_" while <$p>; close $p;
open(my $o, "|-", "sort -rn") or die; $o->autoflush; print $o "$_\n" for 1..5; close $o; print "closed $?\n";
my $pid = fork; if (!$pid) { exit 9 } waitpid $pid, 0; print "child ", $? >> 8, "\n";
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; $_->autoflush for $a, $b; print $a "over\n"; print scalar <$b>;
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select undef, undef, undef, 10; }; print "eval: $@";
local $SIG{USR1} = sub { print "usr1\n" }; kill "USR1", $$;
open(my $f, ">", "/tmp/pf") or die; flock($f, LOCK_EX) or die; print $f "x" x 1000; close $f; print -s "/tmp/pf", "\n";
my $n = 0; find(sub { $n++ if /\.pm$/ }, "/usr/share/perl/5.36.0"); print "modules $n\n";
my $t = "the quick brown fox" x 5000; my $c = () = $t =~ /o\w/g; print "$c\n"; print `uname -s`; print join(" ", map { sprintf "%02x", $_ } unpack "C*", pack "NnV", 1, 2, 3), "\n";
my @k = map { my $i = $_; my $q = fork // die; if (!$q) { exit $i } $q } 1..20; my $s = 0; while ((my $q = wait) > 0) { $s += $? >> 8 } print "sum $s\n";
rename "/tmp/pf", "/tmp/pg" or die; symlink "pg", "/tmp/pl" or die; print readlink "/tmp/pl", " ", (stat "/tmp/pl")[7], "\n"; unlink "/tmp/pg", "/tmp/pl"; mkdir "/tmp/pd" or die; print -d "/tmp/pd" ? "dir\n" : "no\n"; rmdir "/tmp/pd" or die; rmdir "/tmp/none" or print "$!\n";
'
perl -ne 'print if /root/' /etc/passwd
seq 100 | perl -lane '$s += $F[0]; END { print $s }'
