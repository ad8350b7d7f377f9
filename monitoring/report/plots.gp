# What report.sh draws; data from report.sql.  Colours stand for variables of
# report.css: #010101 text, #020202 grid, #030101 and so on the series.
text = 0x010101
grid = 0x020202
array series[6] = [0x030101, 0x030102, 0x030103, 0x030104, 0x030105, 0x030106]
set border 1 lc rgb grid
set tics nomirror scale 0 textcolor rgb text
set grid ytics lt 1 lw 1 lc rgb grid
unset key
set style fill solid 1.0 noborder
stats 'times.dat' using 1 name 'since' nooutput
stats 'times.dat' using 2 name 'now' nooutput
stats 'times.dat' using 3 name 'step' nooutput
size(file) = int(system("wc -c < ".file))
svg = 'set terminal svg noenhanced font "sans-serif,13" size '

# the time since and until, in UTC
on_time = 'set xdata time; set timefmt "%s"; set format x (now_max - since_max > 172800 ? "%m-%d" : "%H:%M"); set xrange [since_max:now_max + step_max]'

if (size('decisions.dat') > 0) {
	@svg 1040,300
	set output 'decisions.svg'
	@on_time
	set yrange [0:*]
	set boxwidth step_max * 0.9 absolute
	plot for [n = 6:1:-1] 'decisions.dat' using 1:(column(n + 1)) with boxes lc rgb series[n]
}

if (size('exposure.dat') > 0) {
	@svg 1040,220
	set output 'exposure.svg'
	@on_time
	set yrange [0:*]
	set boxwidth step_max * 0.9 absolute
	set format y '%g s'
	plot 'exposure.dat' using 1:2 with boxes lc rgb series[2], \
		'' using 1:3 with boxes lc rgb series[1]
	set format y
}

if (size('latency.dat') > 0) {
	@svg 1040,260
	set output 'latency.svg'
	set xdata
	set format x '%g'
	stats 'latency.dat' using 3 name 'decisions' nooutput
	stats 'latency.dat' using 1 name 'from' nooutput
	stats 'latency.dat' using 2 name 'to' nooutput
	low = from_min < 1 ? 1 : from_min
	set logscale x
	set xrange [low / 2.0:to_max * 2.0]
	set xtics ('1 µs' 1, '10 µs' 10, '100 µs' 100, '1 ms' 1e3, '10 ms' 1e4, '100 ms' 1e5, '1 s' 1e6, '10 s' 1e7, '100 s' 1e8)
	set yrange [0:1.15 * 100.0 * decisions_max / decisions_sum]
	set format y '%g %%'
	top = 100.0 * decisions_max / decisions_sum
	plot 'latency.dat' using (sqrt(($1 < 1 ? 0.5 : $1) * $2)):(100.0 * $3 / decisions_sum):($1 < 1 ? 0.5 : $1):2:(0):(100.0 * $3 / decisions_sum) \
			with boxxyerror lc rgb series[1], \
		'quantiles.dat' using 2:(1.1 * top) with impulses lw 1.5 lc rgb series[2], \
		'' using 2:(1.1 * top):1 with labels left offset 0.4,0 textcolor rgb text
	unset logscale x
	set xtics autofreq
	set format y
}

if (size('segments.dat') > 0) {
	@svg 1040,240
	set output 'segments.svg'
	set xdata
	set xrange [0.3:17.7]
	set yrange [0:*]
	set format y '%.1s %cB'
	set xtics font ',11'
	set boxwidth 0.8 absolute
	plot 'segments.dat' using 1:($4 == 1 ? $3 : NaN):xtic(2) with boxes lc rgb series[1], \
		'' using 1:($4 == 2 ? $3 : NaN) with boxes lc rgb series[2]
}
