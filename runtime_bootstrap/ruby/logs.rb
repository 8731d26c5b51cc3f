# frozen_string_literal: true

# What Logger writes to the standard streams, as on AWS: with the request id, or as JSON, from the function's log level on.
#
# Source: github.com/aws/aws-lambda-ruby-runtime-interface-client. A formatter or a level that the function names itself stays.

require 'json'
require 'logger'

module LambdaRuntime
  class << self
    # That of the invocation under way.
    attr_accessor :request_id
  end

  # Bytes of any kind as text.
  def self.readable(value)
    value.to_s.dup.encode('UTF-8', invalid: :replace, undef: :replace, replace: "\u{FFFD}").scrub("\u{FFFD}")
  end

  # Ruby's own line with the request id in it.
  class TextLines < Logger::Formatter
    def call(severity, time, progname, message)
      head = format('%<first>s, [%<time>s #%<pid>d] %<severity>5s', first: severity[0], time: format_datetime(time), pid: Process.pid, severity: severity)
      LambdaRuntime.readable("#{head} #{LambdaRuntime.request_id} -- #{progname}: #{msg2str(message)}") << "\n"
    end
  end

  # One object a line.
  class JsonLines < Logger::Formatter
    def call(severity, time, progname, message)
      line = { timestamp: time.utc.strftime('%Y-%m-%dT%H:%M:%S.%6NZ'), level: severity, message: text_of(message), requestId: LambdaRuntime.request_id }
      line[:logger] = LambdaRuntime.readable(progname) unless progname.to_s.empty?
      line.update(about(message)) if message.is_a?(Exception)
      JSON.generate(line.compact) << "\n"
    end

    private

    def text_of(message)
      LambdaRuntime.readable(message.is_a?(Exception) ? message.message : msg2str(message))
    end

    def about(error)
      frames = Array(error.backtrace).map { |frame| LambdaRuntime.readable(frame) }
      { errorType: error.class.to_s, errorMessage: LambdaRuntime.readable(error.message), stackTrace: frames, location: place(frames.first) }
    end

    # FILE:METHOD:LINE of a frame.
    def place(frame)
      file, line, method = frame.to_s.match(/\A(.+):(\d+):in [`'](.+)'\z/)&.captures
      file.nil? ? frame : "#{file}:#{method}:#{line}"
    end
  end

  # Prepended to Logger.
  module Logs
    JSON_WANTED = ENV['AWS_LAMBDA_LOG_FORMAT'].to_s.upcase == 'JSON'
    LEVEL = %w[DEBUG INFO WARN ERROR FATAL].index(ENV['AWS_LAMBDA_LOG_LEVEL'].to_s.upcase) || Logger::DEBUG

    def initialize(device = nil, *more, **options)
      if device.nil? || device == $stdout || device == $stderr
        device = $stdout if device.nil?
        options[:formatter] ||= JSON_WANTED ? JsonLines.new : TextLines.new
        options[:level] ||= LEVEL
      end
      super(device, *more, **options)
    end
  end

  Logger.prepend(Logs)
end
