# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_restart_agent_global_optspecs
    string join \n h/help V/version
end

function __fish_restart_agent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_restart_agent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_restart_agent_using_subcommand
    set -l cmd (__fish_restart_agent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c restart-agent -n "__fish_restart_agent_needs_command" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -s V -l version -d 'Print version'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "status" -d 'What runs which code, what the agent is doing, what it waits for, until when, what comes next'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "plan" -d 'What a deploy right now would do: each unit, process, request in flight, deadline. Changes nothing'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "wait" -d 'Waits until the deploy that has just landed is converged on this host: for the deploy hook'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "trigger" -d 'Starts a rollout without a change of the stamp: whatever is older than this moment is stale'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "hold" -d 'No restarts until released or expired'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "release" -d 'Ends the hold: a deploy that waited goes on'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "abort" -d 'Gives up the current rollout at its next safe point, repools, and holds for 1h'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "history" -d 'Past rollouts, newest first'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "casualties" -d 'Which requests and scripts were cut, exactly'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "check-config" -d 'Checks the configuration: errors with file, line and caret'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "doctor" -d 'Every trap that this host\'s php-fpm, opcache settings and units hold, with the line that mends each. Changes nothing'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "migrate-pool" -d 'Writes the files that turn a php-fpm pool into generations, for review'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "should-stop" -d 'For scripts: is this unit asked to stop at its next checkpoint?'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "protect" -d 'For scripts: runs a command that must not be interrupted, while the unit\'s lock is held'
complete -c restart-agent -n "__fish_restart_agent_needs_command" -f -a "daemon" -d 'Runs the agent: restart-agent.service does it'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand status" -l target -d 'Only this target, with all its units' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand status" -l json -d 'The state as JSON'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand status" -l watch -d 'Again at each change, until interrupted'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand status" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand plan" -l json -d 'The plan as JSON'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand plan" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand wait" -l deploy -d 'Wait for this deploy, or a newer one, instead of the one in the stamp' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand wait" -l timeout -d 'Give up after this long [default: the deadlines of the plan + 60s]' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand wait" -s v -l verbose -d 'A line at each change, also where standard error is no terminal'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand wait" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand trigger" -l target -d 'Only this target; may be given several times' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand trigger" -l reason -d 'For history and for who looks at status' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand trigger" -l force -d 'No slot, no depool, no drain: an emergency'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand trigger" -l override-hold -d 'Also while a hold is in force'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand trigger" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand hold" -l reason -d 'Why: shown to everybody who wonders' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand hold" -l for -d 'How long, at most' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand hold" -l target -d 'Only this target; may be given several times' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand hold" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand release" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand abort" -l reason -d 'Why: shown to everybody who wonders' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand abort" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand history" -s n -d 'How many [default: 20]; with --plot, the N-th newest [default: 1]' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand history" -l plot -d 'Writes one rollout as a picture: phases, requests in flight, casualties. `-` is standard output' -r -F
complete -c restart-agent -n "__fish_restart_agent_using_subcommand history" -l rollout -d 'With --plot, the rollout with this id' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand history" -l json -d 'The rollouts as JSON'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand history" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand casualties" -l since -d 'Only those of the last D' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand casualties" -l json -d 'The casualties as JSON'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand casualties" -l requests -d 'With the full request line, which may hold secrets'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand casualties" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand check-config" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand doctor" -l json -d 'The findings as JSON'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand migrate-pool" -l into -d 'Where to write [default: UNIT-generations, here]' -r -F
complete -c restart-agent -n "__fish_restart_agent_using_subcommand migrate-pool" -l name -d 'What units, directories and sockets are called [default: the pool\'s name]' -r
complete -c restart-agent -n "__fish_restart_agent_using_subcommand migrate-pool" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand should-stop" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand protect" -s h -l help -d 'Print help'
complete -c restart-agent -n "__fish_restart_agent_using_subcommand daemon" -s h -l help -d 'Print help'
