# What runs inside for the matrix: matrix.sh SECONDS WIRE V4 V6, with iperf3's server at both addresses. Prints lines "name figure unit".
seconds=$1 wire=$2 v4=$3 v6=$4
cd /tmp

# Tries a command for ten seconds, until whatever it talks to is there.
try() { for _ in $(seq 100); do "$@" > out 2> err && return; sleep 0.1; done; cat out err >&2; return 1; }

for family in 4 6; do
  [ $family = 4 ] && address=$v4 || address=$v6
  for streams in 1 8; do
    for direction in to from; do
      [ $direction = from ] && reverse=-R || reverse=
      # Everybody with the same congestion control, whatever the machine's is. The first second, in which windows open, does not count.
      try iperf3 -c "$address" -t "$seconds" -O 1 -C cubic -J -P $streams $reverse || continue
      python3 -c 'import json, sys; print(sys.argv[1], json.load(sys.stdin)["end"]["sum_received"]["bits_per_second"] / 1e6, "Mbit/s")' \
        "${direction}_v${family}_x${streams}_$wire" < out
    done
  done
done
exit 0
